"""Pure rules that tell what is wrong with what is on a node: one module a family."""
