# Two commands do everything on a fresh Debian machine with Rust:
# `make run` and `make test`.
CARGO ?= cargo
TARGET := x86_64-unknown-linux-gnu
BERTH := target/$(TARGET)/release/berth
RUN_ROOT ?= /tmp/berth-run

.PHONY: build run test vm-test bench lint fuzz

build:
	$(CARGO) build --release --locked

# Supervises the examples of manifests/ in the foreground; Ctrl-C stops them.
run: build
	$(BERTH) --root $(RUN_ROOT) up manifests

test:
	$(CARGO) test --locked

# The same integration tests in a virtual machine with cgroup v2.
vm-test:
	tests/vm/run

bench: build
	benches/run $(BERTH)
	benches/network $(BERTH)
	benches/images $(BERTH)
	benches/boot $(BERTH)

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings

# The sanitizers need a nightly compiler; on stable the targets are only checked.
fuzz:
	cd fuzz && $(CARGO) check --locked
	@$(CARGO) +nightly fuzz --version >/dev/null 2>&1 || { \
		echo "the targets build; to run them: rustup toolchain install nightly && cargo install cargo-fuzz"; exit 1; }
	cd fuzz && for target in toml kdl layer reference; do \
		$(CARGO) +nightly fuzz run --target $(TARGET) $$target -- -max_total_time=60 || exit 1; done
