"""CUB-DG: the birds of CUB-200-2011, each in four styles.

From the bottom up: ``birds`` (CUB's text files), ``pictures`` (one picture and the points on it), ``styles`` (the style
networks), ``table`` (the annotations as Parquet), ``plan`` (what a build will make, and from which bytes), ``work`` and
``build`` (making it), ``sheet`` (a picture to check it by eye), ``reader`` (``--dataset CUBDG``). The script is
``datasets/cub_dg.py``.

On disk: ``CUB_DG/<Domain>/<class>/<stem>.jpg``, ``CUB_DG/annotations.parquet``, ``CUB_DG/manifest.json``.

This is not the CUB-DG of GVRT (ECCV 2022), whose domains are Photo, Art, Cartoon and Paint.
"""
