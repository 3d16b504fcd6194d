"""First forms of methods that were written from abstracts. They run by name, so that stored runs continue."""
