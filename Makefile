# The two commands are `make demo` and `make test`; each makes its own environment in .venv.
.PHONY: demo test test-slow check docs bench clean

demo: .venv/base
	.venv/bin/medlens demo --out demo-run --overwrite

test: .venv/test
	scripts/test

test-slow: .venv/test
	scripts/test -m slow

check: .venv/test
	scripts/check

docs: .venv/test
	.venv/bin/python scripts/write_options.py

.venv/base: pyproject.toml constraints.txt
	scripts/install .
	touch $@

.venv/test: pyproject.toml constraints.txt
	scripts/install '.[test]'
	touch $@ .venv/base

bench: .venv/bench
	scripts/bench

.venv/bench: pyproject.toml constraints.txt
	scripts/install '.[bench]'
	touch $@ .venv/base

clean:
	rm -rf .venv demo-run demo-run-data bench-results build dist
