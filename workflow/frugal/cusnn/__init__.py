"""cuSNN: exact fp32 convolution that skips the zeros ReLU leaves (L. Xiang et al., PACT 2022), beside dense ones."""
