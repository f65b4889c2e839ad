"""What a model is: one family a module. Machinery, and models that several families are or have,
stand in modules that begin with an underscore.
"""
