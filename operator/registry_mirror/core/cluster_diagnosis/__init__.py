"""Pure rules that tell what is wrong with the objects of a cluster: one module a family."""
