# The builder runs on the builder's own platform and cross-compiles.
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
ARG TARGETOS TARGETARCH
# What the log, metrics and callbacks say; empty for the tag or the commit of the checkout.
ARG VERSION=
RUN --mount=type=cache,target=/go/pkg/mod \
    --mount=type=cache,target=/go/build-cache \
    GOCACHE=/go/build-cache CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -tags nomsgpack -trimpath -buildvcs=false \
    -ldflags "-s -w -X main.stamped=${VERSION:-$(git describe --always --tags 2>/dev/null || true)}" -o /ringback ./cmd/server

# Distroless rather than scratch: it brings the CA certificates that callbacks to
# https need, and an unprivileged user, and still has no shell.
FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /ringback /ringback
EXPOSE 8080
ENTRYPOINT ["/ringback"]
