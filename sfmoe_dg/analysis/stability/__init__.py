"""Whether images with equal attributes are routed alike in other domains."""
