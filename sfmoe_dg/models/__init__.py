"""Networks: mixture-of-experts layers, architectures, pre-trained weights, and the backbone that a run asks for."""
