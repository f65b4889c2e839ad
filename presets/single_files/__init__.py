"""Tables of files that hold all of a model and no configuration, a module for each family."""
