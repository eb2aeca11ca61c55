package system.log

mask contains "/input/principal/metadata"

mask contains {"op": "upsert", "path": "/input/attributes/source/address/socketAddress/address", "value": "0.0.0.0"}

drop if input.input.request.path == "/health"
