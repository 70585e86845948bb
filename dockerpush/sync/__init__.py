"""Many images, as a list names them."""
