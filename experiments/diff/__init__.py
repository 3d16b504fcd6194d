"""Where do two backends part? (`icl diff`)"""
