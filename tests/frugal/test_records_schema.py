"""The columns of every table against the method's own list, typed by hand."""

import pyarrow as pa
import pytest

from frugal import records

# The columns of the method, in its own notation: names, `?` for nullable, then a type for all of them (s string, b
# bool, i int32, l int64, f float64, t timestamp).
METHOD = {
    "runs": [
        ("run_id, campaign_id, experiment, preset", "s"),
        ("session, sessions_planned, process_restarts", "i"),
        ("started_at, finished_at", "t"),
        ("wall_s", "f"),
        ("git_sha?", "s"),
        ("git_dirty?", "b"),
        ("package_version, config_hash, config_json, lock_hash, container_digest?, python, snakemake?, torch", "s"),
        ("torch_git, torch_cuda?, cudnn?, numba, numba_cuda?, numpy, pyarrow, os, kernel, libc, virtualization?", "s"),
        ("machine_hash, device_key, device_kind, hardware_class, cpu_model", "s"),
        ("cpu_cores, cpu_affinity_n", "i"),
        ("cpu_governor?", "s"),
        ("cpu_turbo?", "b"),
        ("threads", "i"),
        ("ram_bytes, llc_bytes?", "l"),
        ("gpu_name?, gpu_uuid_hash?, compute_capability?", "s"),
        ("sm_count?", "i"),
        ("l2_bytes?, mem_bytes?", "l"),
        ("ecc?, mig?", "b"),
        ("driver?, cuda_driver?", "s"),
        ("sm_hz_max?, mem_hz_max?, power_limit_w?", "f"),
        ("power_regime", "s"),
        ("clocks_locked?", "b"),
        ("copy_bytes_per_s?, flops_fp32?, flops_tf32?, flops_fp16?", "f"),
        ("peak_source?", "s"),
        ("launch_s?, event_floor_s?, energy_tick_s?, idle_w?, settled_sm_hz?", "f"),
        ("foreign_pids?", "i"),
        ("load_1min?, steal_fraction?", "f"),
        ("controls_passed", "b"),
        ("controls_json, doctor_json", "s"),
    ],
    "measurements": [
        ("run_id, case_id", "s"),
        ("session", "i"),
        ("system, experiment, network?, layer?, arm, role, axes_json", "s"),
        ("n?, c?, h?, w?, k?, r?, s?, stride?, pad?, groups?", "i"),
        ("arm_json?, dtype", "s"),
        ("tf32?", "b"),
        ("layout?", "s"),
        ("compiled?, graph?", "b"),
        ("dataset?, dataset_sha256?", "s"),
        ("seed", "l"),
        ("sparsity_target?, sparsity_measured?", "f"),
        ("sparsity_pattern?, source_hash, binary_hash?", "s"),
        ("registers?, spill_bytes?, shared_bytes?", "i"),
        ("occupancy?, first_call_s?", "f"),
        ("regime?, l2?, metric, unit", "s"),
        ("higher_is_better, conditional", "b"),
        ("n_samples, n_blocks, batch_m?, n_discarded, n_mild, n_severe", "i"),
        ("stop_reason?", "s"),
        ("warmup_s?", "f"),
        ("settled?", "b"),
        ("order_seed", "l"),
        ("value?, ci_low?, ci_high?, ci_level?", "f"),
        ("ci_method?", "s"),
        ("mean?, stdev?, mad?, min?, q25?, q75?, p95?, p99?, max?", "f"),
        ("sm_hz?, mem_hz?, temp_start_c?, temp_end_c?, power_w?", "f"),
        ("event_reasons?", "l"),
        ("launch_bound?", "b"),
        ("cpu_s?", "f"),
        ("involuntary_switches?", "l"),
        ("flop?, flop_dense_equiv?, bytes_min?, roofline_s?, roofline_fraction?", "f"),
        ("roof?, energy_source?", "s"),
        ("energy_window_s?", "f"),
        ("energy_ticks?", "i"),
        ("base_bytes?", "l"),
        ("verified_before?, verified_after?", "b"),
        ("tolerance_rule?", "s"),
        ("max_abs_err?, max_rel_err?, err_bound?", "f"),
        ("status, reason?, log", "s"),
    ],
    "samples": [
        ("run_id, case_id, arm, regime, l2?, metric", "s"),
        ("session, round, position, block, index", "i"),
        ("start_ns", "l"),
        ("value, sm_hz?, temp_c?, power_w?", "f"),
        ("event_reasons?", "l"),
        ("flag", "s"),
    ],
    "comparisons": [
        ("case_id, device_key, system, experiment, regime?, l2?, metric, candidate, baseline", "s"),
        ("n_sessions, n_rounds", "i"),
        ("ratio?, ratio_low?, ratio_high?", "f"),
        ("ci_method", "s"),
        ("ratio_cycles?, ratio_cycles_low?, ratio_cycles_high?, margin, mde?, p_raw?, p_holm?", "f"),
        ("family", "s"),
        ("sd_session?, sd_round?", "f"),
        ("verdict?, reason_code", "s"),
        ("conditional, best_baseline", "b"),
    ],
    "claims": [
        ("claim_id, system, origin, statement, locator, note?, paper_hardware", "s"),
        ("expected, expected_low?, expected_high?, trend_bound?", "f"),
        ("unit, comparator", "s"),
        ("measured?, low?, high?", "f"),
        ("ci_method", "s"),
        ("n_rows, n_sessions", "i"),
        ("recorded?, device_key?, preset?, verdict, reason, command, figure?, query_json, beside_json", "s"),
    ],
}
ARROW = {
    "s": pa.string(), "b": pa.bool_(), "i": pa.int32(), "l": pa.int64(), "f": pa.float64(),
    "t": pa.timestamp("us", tz="UTC"),
}  # fmt: skip


@pytest.mark.parametrize("table", METHOD)
def test_columns_are_those_of_the_method(table):
    expected = [
        pa.field(name.rstrip("?"), ARROW[kind], nullable=name.endswith("?"))
        for names, kind in METHOD[table]
        for name in names.split(", ")
    ]
    assert list(records.SCHEMAS[table]) == expected


@pytest.mark.parametrize("table", METHOD)
def test_every_column_has_a_meaning(table):
    meanings = records.meanings(table)
    assert list(meanings) == records.SCHEMAS[table].names
    assert all(meanings.values())
