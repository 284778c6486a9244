"""From raw folders to prepared datasets, and from prepared datasets to training samples."""
