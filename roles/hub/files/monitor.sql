SELECT 'CREATE ROLE prometheus LOGIN CONNECTION LIMIT 5 IN ROLE pg_monitor'
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'prometheus') \gexec
