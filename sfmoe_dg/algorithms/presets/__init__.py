"""Names that stand for ERM with the backbone and the defaults of a mixture-of-experts paper."""
