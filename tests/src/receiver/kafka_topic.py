"""What a topic of Kafka holds, one record a line: partition, offset, key and value as JSON.

Usage: kafka_topic.py HOST:PORT TOPIC CA CERTIFICATE KEY [MECHANISM USER PASSWORD]
"""

import json
import sys

from kafka import KafkaConsumer, TopicPartition

SERVER, TOPIC, CA, CERTIFICATE, KEY, *LOGIN = sys.argv[1:]
how = dict(security_protocol="SSL", ssl_cafile=CA, ssl_certfile=CERTIFICATE, ssl_keyfile=KEY, ssl_check_hostname=False)
if LOGIN:
    mechanism, user, password = LOGIN
    how |= dict(security_protocol="SASL_SSL", sasl_mechanism=mechanism, sasl_plain_username=user, sasl_plain_password=password)
# It checks the checksum of each batch.
consumer = KafkaConsumer(bootstrap_servers=SERVER, check_crcs=True, enable_auto_commit=False, **how)
partitions = [TopicPartition(TOPIC, number) for number in sorted(consumer.partitions_for_topic(TOPIC) or [])]
ends = consumer.end_offsets(partitions)
consumer.assign(partitions)
for partition in partitions:
    consumer.seek(partition, 0)
left = {partition: end for partition, end in ends.items() if end > 0}
while left:
    for partition, records in consumer.poll(timeout_ms=5000).items():
        for record in records:
            print(json.dumps([record.partition, record.offset, record.key.decode(), record.value.decode()]))
            if record.offset + 1 >= ends[partition]:
                left.pop(partition, None)
