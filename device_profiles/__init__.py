"""Device profiles: one TOML file per device, data only; a file's stem is the device's id (README.md: the schema)."""
