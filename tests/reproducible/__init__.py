"""The package layer, installed twice under different conditions and compared: `./dev test reproducible`."""
