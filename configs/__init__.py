"""The configuration files; they ship inside the package as ``normbench.configs``."""
