"""What synthetic rooms are made of: layout, furniture, surfaces, cameras, rendering, scanning, raw files."""
