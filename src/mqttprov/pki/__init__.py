"""X.509: inspecting what devices bring, and the authority that signs for them. No files, no provisioning rules."""
