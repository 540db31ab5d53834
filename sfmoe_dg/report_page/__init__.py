"""The report of a sweep: the page of :mod:`sfmoe_dg.page`, what runs cost, and an explorer of what models do inside.

``cost`` and ``render`` read records only; ``explored`` looks into the models and so needs torch.
"""
