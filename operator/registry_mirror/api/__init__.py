"""The API in Python: frozen models of the three kinds, their grammar, parsing, errors and conditions. Pure."""
