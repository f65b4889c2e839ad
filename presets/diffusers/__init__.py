"""Tables of diffusers, a module for each family."""
