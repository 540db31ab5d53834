"""One run: prepare it, train it, evaluate it, save it, resume it."""
