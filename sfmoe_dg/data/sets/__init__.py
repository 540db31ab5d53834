"""Readers: one file per family of data sets. The catalog names the reader of every data set."""
