module registry-mirror-operator/tests/tools/oracles/answer

go 1.24.0
