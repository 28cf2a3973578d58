"""A network as a picture: where everything stands (`layout`), and the same as SVG, PNG and Graphviz's DOT.

Pure functions of the API's topology; the same answer gives the same bytes.
"""
