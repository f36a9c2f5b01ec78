"""What the package's geometry costs, against the dense form, bare products and plain training."""
