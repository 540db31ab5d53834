"""What is known about each data set before it is opened: one file per family, named like its reader. No torch."""
