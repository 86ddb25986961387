"""Run by the Python of `make test-llama`: llama.cpp's own server over the files given, until its input ends."""

import sys

import xllamacpp

model, mmproj, adapter = sys.argv[1:4]
params = xllamacpp.CommonParams()
params.model.path = model
params.mmproj.path = mmproj
if adapter:
    lora = xllamacpp.CommonAdapterLoraInfo()
    lora.path, lora.scale = adapter, 1.0
    params.lora_adapters = [lora]
params.n_ctx, params.n_parallel, params.port = 2048, 1, 0
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
params.warmup = False
server = xllamacpp.Server(params)
sys.stdout.write(server.listening_address + "\n")
sys.stdout.flush()
sys.stdin.read()
