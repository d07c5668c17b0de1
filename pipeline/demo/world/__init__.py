"""A large generated world of many towns, in which it can be asked whether a model learns.

What is there is planned once (`plan`, `streets`, `land`, `lots`, `roads`, `district`); the map leaves some of it out
(`mapping`), aerial and photos show it in looks that are drawn apart from it and from each other (`looks`), and `labels`
says what the map does not. A place is metres east and north of the world's south-west corner. A district is a function
of the settings and its number alone, so a world of any size is made piece by piece.
"""
