# A server of runs on a processor; docs/how-to.md, "Serve it", has the commands.
FROM python:3.12-slim

ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    TF_CPP_MIN_LOG_LEVEL=2

RUN useradd --create-home --uid 10001 medlens

WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
RUN pip install --constraint constraints.txt '.[serve]'

# Nothing is written while it serves but scratch files: the rest may be mounted read-only.
ENV MPLCONFIGDIR=/tmp/matplotlib
WORKDIR /home/medlens
USER medlens
EXPOSE 8000
STOPSIGNAL SIGTERM

# At the port below; another one for the outside is given by `docker run -p 9000:8000`, not by --port.
HEALTHCHECK --interval=30s --timeout=5s --start-period=180s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/ready', timeout=4)"]

# Other computers can reach a container, so a token is required: MEDLENS_TOKEN, or the one it prints.
ENTRYPOINT ["medlens", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["--help"]
