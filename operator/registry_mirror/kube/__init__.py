"""The Kubernetes API as the program uses it: paths, two small clients, errors and events."""
