"""Code that several objectives share: optimisation, precision, penalties, adversaries, averages of weights."""
