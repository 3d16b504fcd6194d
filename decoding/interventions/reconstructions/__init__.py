"""Methods of papers whose formulas could not be read: they follow an abstract, and the rest is this toolkit's.

They run by name like all others. `icl ls` and the site list them separately.
"""
