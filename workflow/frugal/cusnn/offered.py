"""Which arms a kind of device has for one convolution layer, and in which regimes each is timed by default.

Read while planning: no torch.
"""

ON_GPU = ("cold", "graph", "graph_rotated", "wall")

OURS = {
    "cuda": dict.fromkeys(("sparse", "dense_twin", "v2_dense", "v1_naive"), ON_GPU),
    "cpu": dict.fromkeys(("sparse", "dense_twin"), ("cold", "graph", "wall")),
}
# A compiled loop of many runs is ours alone: torch's operations have no graph on a CPU.
BASELINES = {
    "cuda": dict.fromkeys(
        ("cudnn_fp32", "cudnn_fp32_cl", "cudnn_tf32", "cudnn_tf32_cl", "cudnn_fp16_cl", "gemm_fp32"), ON_GPU
    ),
    "cpu": dict.fromkeys(("onednn_fp32", "onednn_fp32_cl", "gemm_fp32"), ("cold", "wall")),
}
