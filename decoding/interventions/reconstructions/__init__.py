"""Methods of papers whose formulas could not be read: they follow an abstract, and the rest is this toolkit's.

They run by name as all others do. The lists of methods (`icl ls`, the site) name them apart from the methods.
"""
