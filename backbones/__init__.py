"""What a model is: one family a module, its machinery in modules that begin with an underscore."""
