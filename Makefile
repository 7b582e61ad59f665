# One line per target; what takes more than one command is in scripts/. CI (.ci/run) calls only these.
.PHONY: run test test-drivers bench fmt fmt-check lint deny fuzz soak docs docs-check clean

run:          ; @scripts/run.sh
test:         ; @scripts/test.sh
test-drivers: ; @scripts/test-drivers.sh
bench:        ; @scripts/bench.sh
fmt:          ; cargo fmt --all
fmt-check:    ; cargo fmt --all --check
lint:         ; @scripts/lint.sh
deny:         ; @scripts/deny.sh
fuzz:         ; @scripts/fuzz.sh $${FUZZ_SECONDS:-300}
soak:         ; @scripts/soak.sh
docs:         ; @scripts/docs.sh
docs-check:   ; @scripts/docs.sh --check
clean:        ; cargo clean
