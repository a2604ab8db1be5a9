"""What SFT's campaign measures: its experiments, their cases (axes) and arms, as the rows name them.

Axes of every case but those of `kernels`: network, width_divisor, batch, h, w, precision (fp32, tf32, bf16; fp64 in
`exactness`), channels_last, input (`device`, or `host`: the image comes from main memory within the step), norms
(`none`, `frozen`, `train`). The columns n, c, h, w and network repeat them. An arm is `<method>` or
`<method>@<key>=<value>,…` with the methods of frugal.sft.methods; arm_json holds its settings, and of a planned arm its
plan's `segments` (their number), `kinds`, `peak_predicted`, `macs_predicted`, `time_predicted`, `host_bytes`. Roles:
`ours` (planned, tiled, strips, tiled_1seg), `paper_emulation` (sft_artifact), `baseline` (all others).

| experiment | its cases | axes beside those | arms | metrics (unit) |
|---|---|---|---|---|
| sizes | timed sessions | | vanilla, checkpoint@segments=5, checkpoint_blocks, save_on_cpu, compile, activation_budget@budget=0.5, sft_artifact@tiles=4, tiled_1seg@tiles=4, tiled, strips and planned, each @budget_mib=… | time (s) of a step, regime wall |
| pareto | timed sessions | | planned@budget_mib=… (eight), and the baselines | time (s), peak_live (B), on a GPU also peak_allocated, peak_reserved |
| tile_rate | timed sessions | | vanilla, tiled_1seg@tiles=… (tile side = h ÷ tiles) | time (s) |
| streaming | timed sessions | pixels (uint8, float32) | planned@budget_mib=…,prefetch=0 (1, 2), and as its baseline planned@budget_mib=…,image=device, which copies nothing | time (s) |
| memory | a process a step (on a CPU: one for all) | | those of sizes | peak_live, and on a GPU peak_allocated, peak_reserved, workspace (B); time_forward, time_backward (s); macs (1) |
| largest | bisection | cap_gib, device (cuda, or meta: bytes of live tensors are counted); no h and w | vanilla, checkpoint@segments=5, sft_artifact@tiles=32, planned, planned@host_mib=… | size_max (1): h of the largest square image, a multiple of the step; its column reason says where the search's own limit fitted |
| macs | closed forms and plans; no device | | vanilla, sft_artifact@tiles=…, tiled_1seg@tiles=…, strips, planned@budget_mib=… | macs (1) of a step, macs_ratio (1): ÷ vanilla's |
| prediction | plans under random budgets | plan (its number) | planned@budget_mib=… | peak_predicted, peak_live, on a GPU peak_allocated (B); on a GPU time_predicted, time_step (s) |
| exactness | one step against float64 | | vanilla, tiles@windows=…, strips@windows=… | error (1): the greatest of max|a − b| ÷ max|b| over output, image gradient and gradients of parameters; arm_json names the `worst` |
| training | twenty steps | step (from 0) | vanilla, planned@budget_mib=… | loss (1) |
| kernels | timed sessions | stem (vgg16, darknet19), batch, h, w | v1_naive, v2_tile, v3_pair, v4_pair_reg, v5_pair_mma_tf32, v5_pair_mma_bf16, their dense twins v3_pair_twin, v4_pair_reg_twin, v5_pair_mma_tf32_twin, v5_pair_mma_bf16_twin; on a CPU cpu_pair and cpu_twin; cudnn_fp32, cudnn_tf32, cudnn_fp16_cl, cudnn_bf16_cl, torch_compile_fp32, torch_compile_tf32, torch_compile_bf16; onednn_fp32 | time (s), regime graph (on a CPU wall); flop, bytes_min; arm_json: `extra_bytes` between the layers |

Every attempted case leaves rows: one that does not fit has the status `oom`, one that a method does not support
`unsupported`, with the reason, and no value.
"""  # noqa: E501 - a table's rows are lines
