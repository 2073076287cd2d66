# A bundle as an image, for ../deploy/kubernetes/deliver and components/bundle-image. In the models folder:
# docker build -f …/deploy/bundle.Dockerfile --build-arg BUNDLE=gasket/7 -t REGISTRY/gasket:7 .
FROM busybox:1.37.0
ARG BUNDLE
COPY ${BUNDLE} /bundle/${BUNDLE}
USER 10001:10001
