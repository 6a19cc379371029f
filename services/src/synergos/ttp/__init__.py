"""The trusted third party: the orchestrator REST and the engine that does its jobs on one grid."""
