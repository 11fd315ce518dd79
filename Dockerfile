# syntax=docker/dockerfile:1
ARG PYTHON=3.13

# The wheel. Its build tools are pinned by hash too and never reach the image.
FROM python:${PYTHON}-slim-trixie AS wheel
WORKDIR /src
COPY deploy/image/requirements-build.txt ./
RUN pip install --no-cache-dir --require-hashes --only-binary :all: --requirement requirements-build.txt
COPY pyproject.toml README.md LICENSE ./
COPY daemon/ daemon/
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels .

# What Tocsin needs, in an environment of its own, without pip and with byte code: nothing is written at run time.
FROM python:${PYTHON}-slim-trixie AS environment
WORKDIR /src
COPY deploy/image/requirements.txt ./
RUN python -m venv --without-pip /opt/tocsin \
 && pip --python /opt/tocsin/bin/python install --no-cache-dir --require-hashes --only-binary :all: \
      --requirement requirements.txt
COPY --from=wheel /wheels/ /wheels/
RUN pip --python /opt/tocsin/bin/python install --no-cache-dir --no-deps --no-index /wheels/*.whl

FROM python:${PYTHON}-slim-trixie
ARG VERSION=0.2.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="tocsin" \
      org.opencontainers.image.description="The alarm bell for Dataiku DSS: watches scenario runs, keeps metrics, raises alerts, notifies" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# A fixed user, and group 0 with the same rights, so that a platform may pick any user id.
RUN useradd --uid 10001 --gid 0 --home-dir /var/lib/tocsin --no-create-home --shell /usr/sbin/nologin tocsin \
 && install --directory --owner 10001 --group 0 --mode 0770 /var/lib/tocsin \
 && install --directory --owner 0 --group 0 --mode 0755 /etc/tocsin
COPY --from=environment /opt/tocsin /opt/tocsin

# The last two hold only where no configuration file is named.
ENV PATH=/opt/tocsin/bin:$PATH \
    HOME=/var/lib/tocsin \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    TOCSIN_HTTP_LISTEN=0.0.0.0:8080 \
    TOCSIN_STORE_URL=sqlite:////var/lib/tocsin/tocsin.db
USER 10001:0
WORKDIR /var/lib/tocsin
VOLUME /var/lib/tocsin
EXPOSE 8080
# http.client, since it ignores HTTP_PROXY. Kubernetes does not read this and has probes of its own.
HEALTHCHECK --interval=15s --timeout=5s --start-period=10m --retries=4 \
  CMD ["python", "-c", "import http.client, sys; c = http.client.HTTPConnection('127.0.0.1', 8080, timeout=4); c.request('GET', '/-/healthy'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["tocsin"]
CMD ["run"]
