"""From a line of settings to trained cells; the only folder that knows Hydra and OmegaConf."""
