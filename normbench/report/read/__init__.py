"""Records of a folder -> cells and seeds. Nothing found on disk is believed or changed."""
