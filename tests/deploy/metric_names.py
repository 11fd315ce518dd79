"""The metric families that dashboards and rules may use: the contract's names, and the suffixes of their samples."""

GAUGES = {
    "dss_scenario_last_run_duration_seconds",
    "dss_scenario_last_run_start_timestamp_seconds",
    "dss_scenario_last_run_end_timestamp_seconds",
    "dss_scenario_last_success_timestamp_seconds",
    "dss_scenario_last_outcome",
    "dss_scenario_running",
    "dss_scenario_running_start_timestamp_seconds",
    "dss_scenario_next_run_timestamp_seconds",
    "dss_scenario_consecutive_failures",
    "dss_scenario_active",
    "dss_node_up",
    "dss_node_scenarios",
    "tocsin_metrics_scenarios_dropped",
    "tocsin_build_info",
    "tocsin_leader",
    "tocsin_dss_requests_per_second_limit",
    "tocsin_sweep_trusted",
    "tocsin_look_bound_seconds",
    "tocsin_alerts",
    "tocsin_outbox_depth",
    "tocsin_outbox_oldest_age_seconds",
    "tocsin_dead_letters",
    "tocsin_config_last_reload_successful",
    "tocsin_config_last_reload_success_timestamp_seconds",
    "tocsin_event_loop_lag_seconds",
}
COUNTERS = {
    "dss_scenario_runs_total",
    "dss_scenario_run_seconds_total",
    "dss_scenario_reporter_failures_total",
    "dss_project_runs_total",
    "tocsin_dss_requests_total",
    "tocsin_looks_total",
    "tocsin_events_total",
    "tocsin_notifications_total",
    "tocsin_notifications_suppressed_total",
}
HISTOGRAMS = {
    "dss_scenario_run_duration_seconds",
    "tocsin_detection_delay_seconds",
    "tocsin_dss_request_duration_seconds",
}
SAMPLES = GAUGES | COUNTERS | {f"{name}_{end}" for name in HISTOGRAMS for end in ("bucket", "sum", "count")}
