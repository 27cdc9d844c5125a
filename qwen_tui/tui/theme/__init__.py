"""Themes from TOML, contrast, and log-probability as colour."""
