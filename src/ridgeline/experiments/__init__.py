"""A run as a user knows it: its configuration, its presets, its folder, its policies."""
