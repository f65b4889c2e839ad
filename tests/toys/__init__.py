"""Families that stand for what is to come, each in a file of its own: the structure in KerasHub's
manner, and ours beside it.
"""
