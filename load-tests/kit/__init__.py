"""What the scripts of this folder share: starting and ending programs, proxies and their configs, measuring, telling."""
