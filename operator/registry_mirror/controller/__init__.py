"""The controller: watches objects, decides what every node is to have, and sums up what the nodes report."""
